"""The agent: runs beside a GPU, measures real vLLM servers over HTTP and reports what it measured."""
