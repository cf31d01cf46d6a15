"""Nouns and pure functions: no I/O, no clock, no trio. Every other room may import this one."""
