"""Trains the embedded model `narrows-stories` from scratch: `python -m narrows.demo.train --help`.

Inputs: a folder of simple stories and one held-out file. Outputs: a Hugging Face Llama folder.
Needs only torch, tokenizers, safetensors and numpy; knows nothing of the engine that later serves the model.
"""
