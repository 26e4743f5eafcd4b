# The proxy in an image: built in one stage, run in another by a user without rights.

FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/watchllm
COPY setup.py pyproject.toml README.md LICENSE ./
COPY domain domain
COPY ports ports
COPY adapters adapters
COPY app app
COPY config config
RUN /opt/watchllm/bin/pip install --no-cache-dir .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /data watchllm \
    && install -d -m 0700 -o watchllm -g watchllm /data
COPY --from=build /opt/watchllm /opt/watchllm
ENV PATH=/opt/watchllm/bin:$PATH \
    WATCHLLM_HOST=0.0.0.0 \
    WATCHLLM_DATA_DIR=/data
WORKDIR /data
VOLUME /data
USER watchllm
EXPOSE 8787
# Any answer but a 200 raises, and so does none.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", \
    "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('WATCHLLM_PORT', '8787') + '/health', timeout=2)"]
CMD ["watchllm", "serve"]
