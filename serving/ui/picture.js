// Image files as pictures that stand upright, as the server sees them.

// By EXIF orientation: x and y of the upright image as a, b, c, d of (a x + c y, b x + d y).
const TURNS = {
  2: [-1, 0, 0, 1], 3: [-1, 0, 0, -1], 4: [1, 0, 0, -1],
  5: [0, 1, 1, 0], 6: [0, 1, -1, 0], 7: [0, -1, -1, 0], 8: [0, -1, 1, 0],
};

// The EXIF orientation of a WebP file and where its chunk is. The server turns such images; browsers
// turn JPEG and PNG files, but not all of them WebP.
function webpOrientation(view) {
  const text = (at) => String.fromCharCode(...new Uint8Array(view.buffer, at, 4));
  if (view.byteLength < 12 || text(0) !== "RIFF" || text(8) !== "WEBP") return null;
  for (let at = 12; at + 8 <= view.byteLength;) {
    const size = view.getUint32(at + 4, true);
    if (text(at) === "EXIF" && at + 8 + size <= view.byteLength) {
      const skip = text(at + 8) === "Exif" ? 6 : 0;
      const found = tiffOrientation(new DataView(view.buffer, at + 8 + skip, size - skip));
      return found && {orientation: found, at};
    }
    at += 8 + size + (size & 1);
  }
  return null;
}

function tiffOrientation(tiff) {
  if (tiff.byteLength < 14) return null;
  const little = tiff.getUint16(0) === 0x4949;
  const directory = tiff.getUint32(4, little);
  if (directory + 2 > tiff.byteLength) return null;
  for (let i = 0; i < tiff.getUint16(directory, little); i++) {
    const entry = directory + 2 + 12 * i;
    if (entry + 12 > tiff.byteLength) return null;
    if (tiff.getUint16(entry, little) === 0x0112) return tiff.getUint16(entry + 8, little);
  }
  return null;
}

function turned(picture, orientation) {
  const [a, b, c, d] = TURNS[orientation];
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  const {width, height} = picture;
  [canvas.width, canvas.height] = a ? [width, height] : [height, width];
  const left = Math.min(0, a * width + c * height), top = Math.min(0, b * width + d * height);
  pen.setTransform(a, b, c, d, -left, -top);
  pen.drawImage(picture, 0, 0);
  return canvas;
}

// The file is no image that this browser can show; the message is for people.
class NotAnImage extends Error {
  title = "Not an image";
}

// The pixels of an image file. Fails with NotAnImage.
export async function upright(file) {
  if (!file.size) throw new NotAnImage(`${file.name} is empty.`);
  const view = new DataView(await file.arrayBuffer());
  const found = webpOrientation(view);
  const turn = found && TURNS[found.orientation] ? found.orientation : null;
  let blob = file;
  if (turn) {
    new Uint8Array(view.buffer, found.at, 4).fill(0x78); // "xxxx": no browser turns it by itself
    blob = new Blob([view.buffer], {type: file.type});
  }
  const url = URL.createObjectURL(blob), picture = new Image();
  try {
    picture.src = url;
    await picture.decode();
  } catch {
    throw new NotAnImage(`This browser cannot show ${file.name}. Choose a JPEG, PNG or WebP file.`);
  } finally {
    URL.revokeObjectURL(url);
  }
  return turn ? turned(picture, turn) : picture;
}

export const classColor = (id) => `hsl(${(id * 137.5 + 175) % 360} 80% 42%)`;

// Black or white, whichever can be read better on a color that is written as "#rrggbb": WCAG's contrast.
export function inkOn(color) {
  const [red, green, blue] = [1, 3, 5].map((at) => {
    const share = parseInt(color.slice(at, at + 2), 16) / 255;
    return share <= .04045 ? share / 12.92 : ((share + .055) / 1.055) ** 2.4;
  });
  const luminance = .2126 * red + .7152 * green + .0722 * blue;
  return (luminance + .05) ** 2 > 1.05 * .05 ? "#000000" : "#ffffff";
}

// Where labels are written, as [left, top]: at their boxes, the best first, in the picture of this width and
// height and, as far as there is room, not over one another.
export function labelPlaces(boxes, widths, tall, width, height) {
  const taken = [];
  return boxes.map(([x1, y1, , y2], i) => {
    const left = Math.max(0, Math.min(x1, width - widths[i]));
    const isFree = (top) => !taken.some(([otherLeft, otherTop, otherWidth]) =>
      Math.abs(top - otherTop) < tall && left < otherLeft + otherWidth && otherLeft < left + widths[i]);
    const tops = [y1 - tall, y1, y2 - tall, y2].filter((top) => top >= 0 && top + tall <= height);
    const top = tops.find(isFree) ?? tops[0] ?? 0;
    taken.push([left, top, widths[i]]);
    return [left, top];
  });
}

// Draw a picture into a canvas of its size, with the boxes of a reply, if there is one, the best on top.
export function drawBoxes(canvas, picture, reply) {
  const pen = canvas.getContext("2d");
  canvas.width = picture.width;
  canvas.height = picture.height;
  pen.drawImage(picture, 0, 0);
  if (!reply) return;
  const unit = Math.max(canvas.width, canvas.height) / 640;
  const height = Math.max(11, 13 * unit), tall = height * 1.35;
  pen.font = `600 ${height}px system-ui, "DejaVu Sans", sans-serif`;
  pen.lineWidth = Math.max(1.5, 2.5 * unit);
  const texts = reply.detections.map(({label, score}) => `${label} ${score.toFixed(2)}`);
  const widths = texts.map((text) => pen.measureText(text).width + height * .6);
  const boxes = reply.detections.map(({box}) => box);
  const edges = boxes.map(([x1, ...others]) => [x1 - pen.lineWidth / 2, ...others]);
  const places = labelPlaces(edges, widths, tall, canvas.width, canvas.height);
  for (let i = boxes.length - 1; i >= 0; i--) {
    const [x1, y1, x2, y2] = boxes[i], [left, top] = places[i];
    pen.strokeStyle = pen.fillStyle = classColor(reply.detections[i].class_id);
    pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
    pen.fillRect(left, top, widths[i], tall);
    pen.fillStyle = inkOn(pen.fillStyle);
    pen.fillText(texts[i], left + height * .3, top + height);
  }
}
