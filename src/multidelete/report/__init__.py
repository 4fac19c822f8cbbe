"""Turns run folders into something to read: tables for the terminal, figures, and one self-contained page."""
