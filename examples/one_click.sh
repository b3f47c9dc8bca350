#!/usr/bin/env bash
# Embed a picture, click on it, and save the mask drawn over it as SVG, which any browser shows. Needs only curl.
#
#     examples/one_click.sh truck.jpg 500 375 [truck.svg]
#
# SAM2_URL is the server's address; default: http://127.0.0.1:8000.
set -euo pipefail

if (($# < 3 || $# > 4)); then
    echo "usage: $0 PICTURE X Y [OUTPUT.svg]" >&2
    exit 2
fi
picture=$1 x=$2 y=$3 output=${4:-${1%.*}.svg}
url=${SAM2_URL:-http://127.0.0.1:8000}

# Print the body of the reply. If the server returns an error, print its message to standard error and fail.
ask() {
    local reply
    reply=$(curl --silent --show-error --fail-with-body "$@") || { [[ -z $reply ]] || echo "$reply" >&2; return 1; }
    echo "$reply"
}

# Print the first value of a field in the server's JSON, which is compact and has no quotes inside these values.
# The best mask comes first in the reply, so the first value of a field is the best mask's.
first() {
    [[ $2 =~ \"$1\":\"?([^\",}]*) ]] && echo "${BASH_REMATCH[1]}"
}

embedded=$(ask --form image=@- "$url/embed" <"$picture") # curl reads names with quotes in its own way
image_id=$(first image_id "$embedded") width=$(first width "$embedded") height=$(first height "$embedded")
echo "$picture is $width x $height pixels, image_id $image_id, embedded by $(first model "$embedded")"

decoded=$(ask --data @- "$url/decode" <<JSON
{"image_id": "$image_id", "point_coords": [[$x, $y]], "point_labels": [1], "mask_format": "png"}
JSON
)
echo "best mask: predicted IoU $(first iou "$decoded"), $(first area "$decoded") pixels"

# An SVG mask shows what is white in the mask. Browsers look at a picture's bytes, not at the type given here.
cat >"$output" <<SVG
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 $width $height">
  <image width="$width" height="$height" href="data:image/jpeg;base64,$(base64 <"$picture" | tr -d '\n')"/>
  <mask id="object" maskUnits="userSpaceOnUse" x="0" y="0" width="$width" height="$height">
    <image width="$width" height="$height" href="data:image/png;base64,$(first png "$decoded")"/>
  </mask>
  <rect width="$width" height="$height" fill="dodgerblue" opacity="0.55" mask="url(#object)"/>
  <circle cx="$x" cy="$y" r="0.6%" fill="white" stroke="black"/>
</svg>
SVG
echo "wrote $output"
