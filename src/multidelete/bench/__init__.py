"""The grid methods × scopes × sizes × seeds on one task, run side by side and shown in one table."""
