# A small image for one machine: the UI, the daemon and the code location in one container.
#   docker build -t curation-assets . && docker run -p 127.0.0.1:3000:3000 -v "$PWD/data:/data" curation-assets
# Videos go into data/videos, the warehouse and Dagster's state lie in data/ too.
FROM python:3.12-slim AS build
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE dagster.yaml workspace.yaml ./
COPY curation_assets ./curation_assets
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir -c constraints.txt '.[ui]'

FROM python:3.12-slim
RUN useradd --create-home --uid 1000 curator && install -d -o curator /data
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH DAGSTER_DISABLE_TELEMETRY=1 PYTHONUNBUFFERED=1
USER curator
WORKDIR /data
VOLUME /data
EXPOSE 3000
# 0.0.0.0 inside the container only: publish the port on localhost, or behind a proxy with a login.
CMD ["curation-assets", "ui", "--host", "0.0.0.0"]
