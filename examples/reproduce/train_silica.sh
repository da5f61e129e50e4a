#!/usr/bin/env bash
# Trains the bundled silica model: a mixture of two BLIPs on PaiNN (64 features, 3 interactions, 5 Å) over six zeolites, 1,998
# frames; of each topology 85 % train the weights, 5 % select the epoch and fit the noise, 10 % calibrate.
#
#   python examples/reproduce/silica_frames.py DATA_FOLDER/si_zeo22 runs/silica-frames
#   examples/reproduce/train_silica.sh runs/silica-frames [device [more options of blipcalc train]]
#
# Stop it and call it again: it goes on.  Members train side by side, one thread each on a CPU.
set -euo pipefail
frames=$1 device=${2:-cpu}
export OMP_NUM_THREADS=1
command=(blipcalc train "$frames"/train_*.extxyz -o blipcalc/bundled/silica.blip --folder runs/silica
    --device "$device" --set model.sizes.features=64
    --warm-epochs 60 --set warm.batch_size=4 --set warm.compile=true --set noise.batch_size=4 --set noise.epochs=13 "${@:3}")
"${command[@]}" --only-member 0 &
"${command[@]}" --only-member 1
wait
"${command[@]}"
