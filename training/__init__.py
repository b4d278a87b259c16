"""How the bundled reasoner was made: data, training, evaluation, export. The wheel leaves it out."""
