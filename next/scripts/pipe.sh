cd .; export OMP_NUM_THREADS=1
while pgrep -f "out runs/codecC" >/dev/null; do sleep 2; done
L=".venv/bin/python -m llasa_lite train"
(
 $L tokens --data runs/fast --codec runs/codecC --align-steps 0 --out runs/tokB.safetensors > runs/tokB.log 2>&1
 $L codec --freeze-codes --init runs/codecC --adversarial-after 2 --kept 0.25 --data ../shared/corpus runs/mix runs/fastC --pitches 0.92 1.09 --minutes 50 --out runs/codecD > runs/codecD.log 2>&1
) &
$L tokens --data ../shared/corpus runs/mix --codec runs/codecC --pitches 0.92 1.09 --disturbed 1 --align-steps 0 --out runs/tokA.safetensors > runs/tokA.log 2>&1
while [ ! -f runs/tokB.safetensors ]; do sleep 2; done; sleep 2
$L tokens --data runs/tokA.safetensors runs/tokB.safetensors --codec runs/codecC --align-steps 2000 --out runs/tok.safetensors > runs/tok.log 2>&1
$L lm --data runs/tok.safetensors --codec runs/codecC --init nano --init-data llasa_lite/nano/tokens.safetensors --steps 9000 --out runs/lm > runs/lm.log 2>&1
