"""Stored rows: datasets on disk, how trajectories become rows, and how rows fill a replay."""
