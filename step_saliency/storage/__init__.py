"""How results lie on disk: whole files, tables, manifests, folders, traces; not what a map is."""
