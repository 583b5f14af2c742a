"""What a trained agent believes, measured against what happened, and why it may not learn."""
