"""From a pretrained network to a fine-tuned one."""
