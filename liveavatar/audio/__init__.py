"""Sound: reading it, cleaning it so that cleaning never harms, transcribing it, and the driving features."""
