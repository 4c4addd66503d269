"""Runs requests: queue, KV blocks, steps, text. Callers speak to client.EngineClient; see local.LLM."""
