# queue.sh PART...: tables of the nano in this checkout, in runs/; each goes on where it was stopped
export OMP_NUM_THREADS=1 PYTHONPATH=$PWD PYTHONWARNINGS=ignore; S=${SHARED:-../shared}; W=$S/models/whisper-base; L="$PWD/.venv/bin/python -m llasa_lite evaluate"
ln -sfn $S/corpus corpus; cp $S/heldout/sentences.txt harvard.txt; mkdir -p runs
for part in "$@"; do date; case $part in
clone) $L seed-tts-eval --data corpus --limit 80 --judge $W --speaker-model resemblyzer --out runs/seed-tts-eval;;
joe) $L tts --sentences harvard.txt --judge $W --voices joe --out runs/tts;;
six) $L tts --sentences harvard.txt --limit 60 --judge $W --voices slt heart emma michael george rms --out runs/tts6;;
asr) $L asr --data corpus --limit 60 --out runs/asr;;
continuation) $L continuation --data corpus --limit 50 --judge $W --speaker-model resemblyzer --out runs/continuation;;
codec) $L codec --data corpus --limit 100 --judge $W --speaker-model resemblyzer --out runs/codec;;
esac; done
