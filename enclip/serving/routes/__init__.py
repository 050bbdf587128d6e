"""One file a family of routes; each makes a router over a `Desk`."""
