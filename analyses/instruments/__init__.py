"""What questions measure with: cuts, edits, maps, losses, margins; no statistics."""
