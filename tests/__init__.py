"""Tests; a package of their own, because pgx installs one of the same name."""
