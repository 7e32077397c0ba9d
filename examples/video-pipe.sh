#!/usr/bin/env bash
# A live video whose reader is too slow: `hq pipe` takes what comes, on disk what memory cannot
# hold, and the reader gets every byte in order.
#
#     examples/video-pipe.sh [SECONDS]        # of video, 60 unless told; takes half as long
#
# ffmpeg makes a real MPEG-TS (1080p25 at 6 Mb/s, AAC). It is written at four times its speed and
# read at twice. Exits non-zero unless both ends are the same, the disk was used, and the spool
# directory is empty afterwards. Needs ffmpeg, and hq on PATH (or named: HQ=.venv/bin/hq).
set -euo pipefail

seconds=${1:-60}
hq=${HQ:-hq}
for tool in ffmpeg python3 "$hq"; do
    command -v "$tool" >/dev/null || { echo "video-pipe: $tool not found" >&2; exit 2; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/spool"

# Copies stdin to stdout at $1 bytes a second.
paced() {
    python3 -c '
import sys, time
rate, start, copied = float(sys.argv[1]), time.monotonic(), 0
while block := sys.stdin.buffer.read1(65536):
    sys.stdout.buffer.write(block)
    copied += len(block)
    time.sleep(max(0.0, start + copied / rate - time.monotonic()))
' "$1"
}

echo "Making $seconds s of video ..."
ffmpeg -nostdin -loglevel error \
    -f lavfi -i testsrc2=size=1920x1080:rate=25 -f lavfi -i sine=frequency=440:sample_rate=48000 \
    -t "$seconds" -c:v libx264 -preset ultrafast -pix_fmt yuv420p \
    -b:v 6M -minrate 6M -maxrate 6M -bufsize 6M -x264-params nal-hrd=cbr -c:a aac -b:a 128k \
    -f mpegts "$work/video.ts"
size=$(stat -c %s "$work/video.ts")

echo "Piping $size bytes: written at 4x, read at 2x ..."
paced $((4 * size / seconds)) <"$work/video.ts" |
    "$hq" pipe --memory 1M --dir "$work/spool" --jsonl "$work/samples" --quiet |
    paced $((2 * size / seconds)) >"$work/received.ts"

python3 - "$work" <<'END'
import hashlib, json, pathlib, sys

work = pathlib.Path(sys.argv[1])
sent, received = (
    hashlib.md5((work / name).read_bytes()).hexdigest() for name in ("video.ts", "received.ts")
)
samples = [json.loads(line) for line in (work / "samples").open()]
peak = max((sample["disk_bytes"] for sample in samples), default=0)
left = sorted(path.name for path in (work / "spool").iterdir())

print(f"sent      md5 {sent}")
print(f"received  md5 {received}")
print(f"on disk   {peak / 1e6:.1f} MB at most, in {len(samples)} samples")
print(f"spool     {', '.join(left) or 'empty'}")

failures = []
if sent != received:
    failures.append("the reader did not get what was sent")
if not peak:
    failures.append("the disk was never used")
if left:
    failures.append("files were left in the spool directory")
if failures:
    sys.exit("FAILED: " + "; ".join(failures))
print("OK")
END
