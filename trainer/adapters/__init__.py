"""LoRA and its kin: in the network, in files, and as tools over files."""
