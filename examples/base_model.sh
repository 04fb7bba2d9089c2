#!/usr/bin/env bash
# A base model, with no chat template, as the model that is measured and that writes: an SAE for it,
# gaps of a dataset in its eyes, and samples for them.
#
#   REVIEWER=ana examples/base_model.sh MODEL CORPUS ANCHOR DATASET
#
# MODEL is a folder, a hub id or a .gguf file, which is converted once; such as Gemma 3 270M, whose
# terms (https://ai.google.dev/gemma/terms) are yours to accept when you fetch it. CORPUS is what the
# SAE is trained on, ANCHOR shows what matters, DATASET is in question: files of chats or texts.
#
# The model is not named when it comes to writing: the measured one writes unless another is asked
# for. It goes on with lists, for texts and for answers alike, as it knows no chats.
#
# What else may be set: OUT (folder, default base), LAYER (default 9), WIDTH (features, default
# 2048), SAMPLES (chats the SAE is trained on, default 400), GAPS (default 6), and FAC_WORKSPACE and
# FAC_MODELS as everywhere. Started again, whatever is finished is found.
set -euo pipefail

if (($# != 4)) || [[ $1 == -* || -z ${REVIEWER:-} ]]; then
  echo "Say: REVIEWER=you examples/base_model.sh MODEL CORPUS ANCHOR DATASET" >&2
  exit 2
fi
model=$1 corpus=$2 out=${OUT:-base} layer=${LAYER:-9}
mkdir -p "$out"
clone=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fac() { PYTHONPATH=$clone${PYTHONPATH:+:$PYTHONPATH} python -m fac "$@"; }
field() { python -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

if [[ ! -e $out/sae/quality.json ]]; then
  fac train-sae "$corpus" --out "$out/sae" --model "$model" --layer "$layer" --k 20 --context 128 \
    --width "${WIDTH:-2048}" --max-samples "${SAMPLES:-400}" --held-out 40 --batch 1024 --passes 8
fi
fac ingest "$3" --name base-anchor
fac ingest "$4" --name base-dataset
for name in base-anchor base-dataset; do
  fac measure "$name" --model "$model" --layer "$layer" --sae "$out/sae"
done
fac explain base-anchor
sides=(--anchor base-anchor --dataset base-dataset)
fac coverage "${sides[@]}"
made=$(fac pairs "${sides[@]}" --limit "${GAPS:-6}" --json)
echo "$made"
fac approve "$(field run <<<"$made")" --all --reviewer "$REVIEWER"
made=$(fac synthesize "$(field run <<<"$made")" --per-feature 6 --json)
echo "$made"
fac export "$(field run <<<"$made")" --out "$out/kept.jsonl"
