"""Tables of groups of rows."""
