"""Alignment of one section on another."""
