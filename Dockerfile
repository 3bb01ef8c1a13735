# syntax=docker/dockerfile:1
# One image for the UI, the daemon, the code location and the runs; deploy/docker-compose.yaml and deploy/kubernetes give the commands.
#   docker build -t curation-assets .                                    torch for CPUs
#   docker build -t curation-assets:cuda --build-arg VARIANT=cuda .      torch with CUDA; the host needs NVIDIA's driver and container toolkit
#   docker run -p 127.0.0.1:3000:3000 -v curation:/data curation-assets  all in one container: settings, warehouse and Dagster's state lie in /data
# Weights are not in the image: they are downloaded into the volume /models once (curation-assets models download NAME).
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
ARG VARIANT=cpu
ARG EXTRAS=ui,models,shots,postgres,kubernetes
WORKDIR /build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt ./
# torch alone and first: what it needs comes with the rest, from one index. PyPI's wheels for Linux bring CUDA's libraries with them.
RUN case "$VARIANT" in \
      cpu) index=https://download.pytorch.org/whl/cpu ;; \
      cuda) index=https://pypi.org/simple ;; \
      *) echo "VARIANT is '$VARIANT'; it must be cpu or cuda" >&2; exit 1 ;; \
    esac \
    && python -m venv /venv \
    && /venv/bin/pip install --no-deps --index-url "$index" -c constraints.txt torch torchvision
COPY pyproject.toml README.md LICENSE dagster.yaml workspace.yaml ./
COPY curation_assets ./curation_assets
RUN /venv/bin/pip install -c constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim-bookworm
# /opt/dagster is DAGSTER_HOME where Postgres holds the state; storage/ in it holds the logs of the runs.
RUN useradd --create-home --uid 1000 curator && install -d -o curator -g curator /data /models /opt/dagster /opt/dagster/storage
COPY --from=build /venv /venv
COPY --chown=curator:curator deploy/dagster.yaml deploy/workspace.yaml deploy/create_buckets.py /opt/dagster/
ENV PATH=/venv/bin:$PATH \
    DAGSTER_DISABLE_TELEMETRY=1 \
    HF_HOME=/models \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video \
    PYTHONUNBUFFERED=1
USER curator
WORKDIR /data
VOLUME ["/data", "/models"]
EXPOSE 3000 4000
# Of the command below; other commands bring their own.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/server_info', timeout=5)"]
# 0.0.0.0 inside the container only: publish the port on localhost, or behind a proxy with a login.
CMD ["curation-assets", "ui", "--host", "0.0.0.0", "--port", "3000"]
