"""How an optimizer's step is taken: not at all, in pieces, within the backward pass, rounded."""
