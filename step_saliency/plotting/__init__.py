"""Pictures from arrays: palette, step maps, depth curves, token maps, views. Nothing is computed or
read from files, and no result class is known here: those hand their arrays down."""
