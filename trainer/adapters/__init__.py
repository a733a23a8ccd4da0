"""What a LoRA and its kin are made of: names, layers, files of other trainers, tools over files."""
