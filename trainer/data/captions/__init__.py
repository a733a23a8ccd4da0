"""What is written about an image, and the caption that one presentation is trained with."""
