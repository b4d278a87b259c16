"""How the bundled reasoner was made: data, training, evaluation, export; not in the wheel."""
