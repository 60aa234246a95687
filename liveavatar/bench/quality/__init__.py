"""Quality of a model on the fixed evaluation split: what `liveavatar bench quality` measures and prints."""
