"""The digital twin of one vLLM server that serves many LoRA adapters."""
