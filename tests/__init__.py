"""Tests, lowest layer first; a regular package, so that no dependency's own `tests` hides it."""
