# The gateway's image: the packages that requirements.txt locks, and api_server. No compiler, no tests, no models.
# docker build --build-arg VERSION=0.1.0 --tag llm-serving-stack/api-server:0.1.0 .
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS packages
WORKDIR /build
COPY requirements.txt ./
# pip stays behind: what serves needs none.
RUN python -m venv --without-pip /venv \
    && python -m pip --python /venv/bin/python install --no-cache-dir --no-compile --disable-pip-version-check \
        --require-hashes --only-binary :all: --requirement requirements.txt \
    && python -m compileall -q --invalidation-mode unchecked-hash /venv/lib
COPY api_server /app/api_server
COPY configs /app/configs
COPY init-scripts /app/init-scripts
# A stray mode of the checkout must not keep the gateway's user out.
RUN python -m compileall -q --invalidation-mode unchecked-hash /app/api_server \
    && chmod -R a+rX,go-w /app \
    && install -d -o 10001 -g 10001 /data

FROM ${BASE}
ARG VERSION=0.0.0
LABEL org.opencontainers.image.title="llm-serving-stack" \
      org.opencontainers.image.description="A private replacement for the OpenAI API on your own machine" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    DATA_DIR=/data
COPY --from=packages /venv /venv
COPY --from=packages /app /app
COPY --from=packages --chown=10001:10001 /data /data
WORKDIR /app
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:8000/health/live', timeout=2)"]
ENTRYPOINT ["python", "-m", "api_server"]
CMD ["serve"]
