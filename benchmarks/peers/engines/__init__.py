"""One adapter an engine; each module has a class `Engine` and imports what it adapts late."""
