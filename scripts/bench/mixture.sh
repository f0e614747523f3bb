#!/bin/bash
# Do tags and weights help a mixture of captions (Multi30k) and everyday sentences (Tatoeba)?
#
#   bash scripts/bench/mixture.sh train plain|tagged|weighted|tagged_weighted
#   bash scripts/bench/mixture.sh evaluate plain|… [step-N]
#   bash scripts/bench/mixture.sh significance plain tagged
#
# DATA names the folder of the corpora, RUNS where runs go, STEPS how long each is trained.
set -euo pipefail
DATA=${DATA:-../shared/data} RUNS=${RUNS:-runs} STEPS=${STEPS:-3000} PYTHON=${PYTHON:-python}

words() { # of one arm: tags and the weight of Tatoeba
  local captions="" everyday="" weight=1
  case $1 in tagged*) captions=",tag:caption" everyday=",tag:everyday" ;; esac
  case $1 in *weighted) weight=3 ;; esac
  echo "data.train=[{name:multi30k,path:multi30k/train$captions},{name:tatoeba,path:tatoeba/train.en-fr.tsv.gz,kind:tsv,weight:$weight$everyday}]"
  echo "data.valid=[{name:multi30k,path:multi30k/val$captions},{name:tatoeba,path:tatoeba/dev.en-fr.tsv.gz,kind:tsv$everyday}]"
  echo "data.test=[{name:flickr,path:multi30k/test_2016_flickr$captions},{name:tatoeba,path:tatoeba/test.en-fr.tsv.gz,kind:tsv$everyday}]"
}

case $1 in
train)
  mapfile -t arm < <(words "$2")
  exec "$PYTHON" -m nmt train data=files data.languages=en-fr data.name=mix_en_fr "data.root=$DATA" "${arm[@]}" \
    tokenizer.vocab_size=6000 model=transformer_tiny train.batch_tokens=2048 train.precision=fp32 \
    train.threads=1 "train.max_steps=$STEPS" train.validate_every=150 train.validate_sentences=0 \
    train.metric=loss train.keep_last=20 "run=$RUNS/mix_$2"
  ;;
evaluate)
  for split in flickr tatoeba; do
    "$PYTHON" -m nmt evaluate "run=$RUNS/mix_$2" "split=$split" "checkpoint=${3:-last}" train.threads=1
  done
  ;;
significance)
  for split in flickr tatoeba; do
    references=$DATA/tatoeba/test.en-fr.tsv.gz
    if [ $split = flickr ]; then references=$DATA/multi30k/test_2016_flickr.fr.gz; fi
    echo "$split"
    "$PYTHON" scripts/bench/paired.py "$references" \
      "$RUNS/mix_$2/translations/mix_en_fr.$split."*.txt "$RUNS/mix_$3/translations/mix_en_fr.$split."*.txt
  done
  ;;
esac
