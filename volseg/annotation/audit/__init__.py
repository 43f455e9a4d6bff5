"""What is probably wrong with an annotation, said before anything is learnt from it."""
