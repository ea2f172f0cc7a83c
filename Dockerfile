# JupyterLab with the lab in it, for one machine, a JupyterHub or Binder: see INSTALL.md.
FROM python:3.11-slim

RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*

# The pins of requirements.txt but those that match SKIP; SERVER is what Binder and a JupyterHub start.
ARG SKIP="^$"
ARG SERVER="notebook jupyterhub"
ARG PIP_EXTRA_INDEX_URL=""
COPY requirements.txt /tmp/
RUN grep -vE "$SKIP" /tmp/requirements.txt > /tmp/pins.txt \
    && pip install --no-cache-dir -r /tmp/pins.txt \
    && pip install --no-cache-dir -c /tmp/pins.txt $SERVER

# Not in the home directory: a JupyterHub hides that behind a volume.
ARG NB_USER=reader
ARG NB_UID=1000
RUN useradd --create-home --uid $NB_UID $NB_USER && install -d -o $NB_UID /lab
USER $NB_USER
ENV HOME=/home/$NB_USER PYTHONPATH=/lab
WORKDIR /lab
COPY --chown=$NB_UID . .
RUN dvc pull --allow-missing

EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser", "notebooks"]
