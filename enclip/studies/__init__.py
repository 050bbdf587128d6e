"""Named studies: does the method earn its cost? Typed definitions, cached runs, reports anyone can repeat."""
