"""Low-resolution logits to runs, outlines, crops and PNG at the picture's size. Knows no network and no device."""
