"""Loops that apply decisions on a manager."""
