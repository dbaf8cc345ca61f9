# The service and its workers, from one file:
#   docker build -f docker/service.Dockerfile -t loadmaster:0.1.0 .
#   docker build -f docker/service.Dockerfile -t loadmaster-worker:0.1.0 --build-arg EXTRAS=train .
# A worker that only simulates and replays needs no extra; one that trains needs `train`.
# Pin BASE_IMAGE to a digest where your registry tells it.
ARG BASE_IMAGE=docker.io/library/python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG EXTRAS=""
WORKDIR /src
COPY pyproject.toml constraints.txt README.md ./
COPY service service
COPY placer placer
COPY models models
COPY twin twin
RUN python3 -m venv /opt/loadmaster \
    && /opt/loadmaster/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
       -c constraints.txt ".${EXTRAS:+[${EXTRAS}]}" \
    && find /opt/loadmaster -name __pycache__ -type d -prune -exec rm -rf {} +

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="loadmaster" \
      org.opencontainers.image.description="How many GPUs a fleet of LoRA adapters on vLLM needs, and which goes where"
RUN groupadd --system --gid 10001 loadmaster \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin loadmaster \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/loadmaster /var/cache/loadmaster
COPY --from=build /opt/loadmaster /opt/loadmaster
# The root file system may be read-only: data, the cache of compiled kernels and /tmp are mounts.
ENV PATH=/opt/loadmaster/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/var/cache/loadmaster \
    LOADMASTER_HOST=0.0.0.0 \
    LOADMASTER_DATA_DIR=/var/lib/loadmaster
WORKDIR /var/lib/loadmaster
USER 10001:10001
VOLUME ["/var/lib/loadmaster", "/var/cache/loadmaster"]
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=2m --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/livez', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["loadmaster"]
CMD ["serve"]
