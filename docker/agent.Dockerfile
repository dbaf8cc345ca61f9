# The agent beside a GPU: vLLM's own image, with Loadmaster in an environment of its own.
# The agent reaches vLLM over HTTP only, so the two need not agree on any package.
#   docker build -f docker/agent.Dockerfile -t loadmaster-agent:0.1.0 .
#   docker run --gpus all --shm-size 8g -v /models:/models:ro -v agent:/var/lib/loadmaster-agent \
#     -e LOADMASTER_AGENT_URL=https://loadmaster.example -e LOADMASTER_AGENT_KEY=lm_... \
#     -e 'LOADMASTER_AGENT_MODELS={"llama-3.1-8b-instruct": "/models/llama-3.1-8b-instruct"}' loadmaster-agent:0.1.0
ARG VLLM_VERSION=v0.32.0
FROM vllm/vllm-openai:${VLLM_VERSION}

WORKDIR /opt/loadmaster
COPY pyproject.toml constraints.txt README.md ./
COPY service service
COPY placer placer
COPY models models
COPY twin twin
RUN python3 -m venv /opt/loadmaster/.venv \
    && .venv/bin/python -m pip install --no-cache-dir '.[agent]' -c constraints.txt \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/loadmaster-agent loadmaster

USER 10001
WORKDIR /var/lib/loadmaster-agent
VOLUME /var/lib/loadmaster-agent
ENV LOADMASTER_AGENT_HOME=/var/lib/loadmaster-agent
# SIGTERM gives the task back and ends vLLM first.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/loadmaster/.venv/bin/loadmaster", "agent"]
