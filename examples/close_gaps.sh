#!/usr/bin/env bash
# Closes gaps of a dataset: the whole loop in commands, one round after the other.
#
#   REVIEWER=ana examples/close_gaps.sh my.jsonl
#   REVIEWER=ana examples/close_gaps.sh my.jsonl --limit 30 --candidates 6 --writer steered
#
# The file holds chats, one {"messages": [...]} a line. What follows it goes to `fac pairs`: how many
# gaps (--limit), texts per gap (--candidates), who writes (--writer, --model, --endpoint), in which
# form (--profile). `fac synthesize` goes on as the pairs were asked for. Nothing is needed for the
# demo: the writer is its own model.
#
# A person approves. REVIEWER answers for all pairs as they are proposed; without it only those are
# written from that somebody approved by now, and where there is none the script ends after the
# pairs. Start it again: whatever is finished is found, nothing is computed or written twice.
#
# What else may be set:
#   OUT         folder of what is kept and of the dataset with it; default closed
#   ROUNDS      how often it begins again on what is still missing; default 1
#   ANCHOR      measured dataset that shows what matters; default demo-anchor
#   THRESHOLD   active means a peak above it, for gaps and for what is kept: a number (0 is the
#               paper's), or `clear`, the anchor's clear firing; default clear
#   BUDGET      tokens that neither pairs nor samples of a round may exceed; default none
#   FAC_WORKSPACE, OPENAI_API_KEY, OPENAI_BASE_URL as everywhere; another server that needs a key
#   stands with it in endpoints.toml of the workspace
#
# Ends with 0 when every round kept something and lost no coverage, or nothing is missing; with 1
# when one did not; else as the command that failed.
set -euo pipefail

if (($# == 0)) || [[ $1 == -* ]]; then
  echo "Name the file to begin with: examples/close_gaps.sh my.jsonl" >&2
  exit 2
fi
file=$1
shift
out=${OUT:-closed} anchor=${ANCHOR:-demo-anchor} threshold=${THRESHOLD:-clear}
mkdir -p "$out"

clone=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fac() { PYTHONPATH=$clone${PYTHONPATH:+:$PYTHONPATH} python -m fac "$@"; }
field() { python -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
coverage() { fac coverage --anchor "$anchor" --dataset "$1" --threshold "$threshold" --json; }

if [[ $anchor == demo-anchor ]]; then
  fac demo
fi

# A file is read, measured as the anchor was, and compared with it; its name is that of the file.
fac check "$file" --baseline "$anchor" --threshold "$threshold"
first=$(basename "$file")
first=${first%.*} name=$first

for ((round = 1; round <= ${ROUNDS:-1}; round++)); do
  echo "--- round $round, $name"
  before=$(coverage "$name")
  if (($(field n_missing <<<"$before") == 0)); then
    echo "Nothing is missing."
    break
  fi
  if ((round == 1)); then
    fac explain "$anchor" --missing-from "$name" --threshold "$threshold"
  fi
  sides=(--anchor "$anchor" --dataset "$name" --threshold "$threshold")
  fac gaps "${sides[@]}" --limit 10

  # Step 1. A later round writes anew for what an earlier one could not close.
  made=$(fac pairs "${sides[@]}" --limit 10 ${BUDGET:+--budget "$BUDGET"} "$@" \
    --attempt $((round - 1)) --json)
  echo "$made"
  pairs=$(field run <<<"$made")

  if [[ -n ${REVIEWER:-} ]]; then
    fac approve "$pairs" --all --reviewer "$REVIEWER"
  else
    echo "Without REVIEWER only approved pairs count: approve on the page Pairs, or with"
    echo "  python -m fac approve $pairs --ids FEATURES --reviewer YOU"
  fi

  # Step 2: what a few pairs come to, then all of them; the few are not written again.
  fac synthesize "$pairs" --pilot ${BUDGET:+--budget "$BUDGET"}
  made=$(fac synthesize "$pairs" ${BUDGET:+--budget "$BUDGET"} --json)
  echo "$made"
  fac export "$(field run <<<"$made")" --out "$out/kept-$round.jsonl" --form chat

  # The dataset with what is kept is measured like any other, and must not cover less. One file, for
  # the next round's pairs are about one dataset; `fac coverage --with` would take both as they are.
  awk 1 "$file" "$out/kept-$round.jsonl" >"$out/$first-closed-$round.jsonl"
  file=$out/$first-closed-$round.jsonl
  fac check "$file" --baseline "$name" --anchor "$anchor" --threshold "$threshold" \
    --min-fac "$(field fac <<<"$before")"
  name=$first-closed-$round
done
