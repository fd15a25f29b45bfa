// Pictures and curves on the page.

/// Numbers in [-1, 1], channels-last, onto a canvas of as many pixels.
export function show(canvas, values, height, width, channels = 1) {
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    for (let c = 0; c < 3; c++) {
      // As the native program rounds: half up. The array clamps.
      const value = values[i * channels + (channels === 1 ? 0 : c)];
      image.data[4 * i + c] = Math.min(255, Math.max(0, Math.floor((value + 1) * 127.5 + 0.5)));
    }
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext('2d').putImageData(image, 0, 0);
}

/// Pictures side by side with a pixel between, `columns` a row.
export function showGrid(canvas, pictures, height, width, channels, columns) {
  const rows = Math.ceil(pictures.length / columns);
  canvas.width = columns * (width + 1) - 1;
  canvas.height = rows * (height + 1) - 1;
  const context = canvas.getContext('2d');
  context.fillStyle = '#bdb8ac';
  context.fillRect(0, 0, canvas.width, canvas.height);
  const tile = document.createElement('canvas');
  pictures.forEach((picture, i) => {
    show(tile, picture, height, width, channels);
    context.drawImage(tile, (i % columns) * (width + 1), Math.floor(i / columns) * (height + 1));
  });
}

/// The channels of (1, H, W, C) as pictures, each stretched over its own range; and the range of all.
export function channelsOf(values, height, width, channels) {
  const maps = [];
  let [low, high] = [Infinity, -Infinity];
  for (let c = 0; c < channels; c++) {
    const map = new Float32Array(height * width);
    for (let i = 0; i < map.length; i++) map[i] = values[i * channels + c];
    const [least, most] = [Math.min(...map), Math.max(...map)];
    low = Math.min(low, least);
    high = Math.max(high, most);
    const scale = 2 / (most - least || 1);
    maps.push(map.map((v) => (v - least) * scale - 1));
  }
  return { maps, low, high };
}

/// A thumbnail with a caption.
export function thumbnail(values, height, width, channels, caption) {
  const figure = document.createElement('figure');
  const canvas = document.createElement('canvas');
  canvas.className = 'pixels';
  show(canvas, values, height, width, channels);
  const words = document.createElement('figcaption');
  words.textContent = caption;
  figure.append(canvas, words);
  return figure;
}

const svgElement = (name, attributes, text) => {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
};

/// ā and b̄ over t, with a line where t is.
export function drawLevels(svg, levels, t) {
  const [left, top, width, height] = [26, 10, 366, 134];
  const last = levels.length / 2 - 1;
  const x = (i) => left + (width * i) / last;
  const y = (v) => top + height * (1 - v);
  const line = (offset) => Array.from({ length: last + 1 }, (_, i) => i).filter((i) => i % Math.ceil(last / 200) === 0 || i === last)
    .map((i) => `${x(i).toFixed(1)},${y(levels[2 * i + offset]).toFixed(1)}`).join(' ');
  svg.replaceChildren(
    svgElement('line', { class: 'axis', x1: left, x2: left + width, y1: top + height, y2: top + height }),
    svgElement('line', { class: 'axis', x1: left, x2: left, y1: top, y2: top + height }),
    svgElement('text', { x: 14, y: top + 10 }, '1'), svgElement('text', { x: 14, y: top + height }, '0'),
    svgElement('text', { x: left, y: top + height + 18 }, 't = 0'),
    svgElement('text', { x: left + width, y: top + height + 18, 'text-anchor': 'end' }, `t = ${last}`),
    svgElement('polyline', { class: 'signal', points: line(0) }), svgElement('polyline', { class: 'noise', points: line(1) }),
    svgElement('text', { class: 'signal', x: left + 22, y: top + 14 }, 'ā'), svgElement('text', { class: 'noise', x: left + width - 16, y: top + 16 }, 'b̄'),
    svgElement('line', { class: 'now', x1: x(t), x2: x(t), y1: top, y2: top + height }),
  );
}

/// Losses over steps: thin for each, bold for the running mean.
export function drawLoss(svg, rows, steps) {
  const [left, top, width, height] = [44, 12, 744, 200];
  const most = Math.max(1, ...rows.map(([, loss]) => loss).filter(Number.isFinite).slice(0, 400)) * 1.05;
  const least = Math.min(0.01, ...rows.map(([, loss]) => loss).filter((loss) => loss > 0)) * 0.8;
  const end = Math.max(steps, 1, rows.length ? rows[rows.length - 1][0] : 1);
  const x = (step) => left + (width * step) / end;
  const y = (loss) => top + (height * Math.log(most / Math.max(loss, least))) / Math.log(most / least);
  const points = (list) => list.map(([step, loss]) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`).join(' ');
  let mean = null;
  const means = rows.map(([step, loss]) => {
    const share = Math.max(0.05, 1 / (step + 1));
    mean = mean === null || !Number.isFinite(mean) ? loss : mean + share * (loss - mean);
    return [step, mean];
  });
  const thin = Math.ceil(rows.length / 1500);
  const some = (list) => list.filter((_, i) => i % thin === 0 || i === list.length - 1);
  const lines = [1, 0.1, 0.01, 0.001].filter((level) => level > least && level < most).flatMap((level) => [
    svgElement('line', { class: 'axis', x1: left, x2: left + width, y1: y(level), y2: y(level) }),
    svgElement('text', { x: left - 6, y: y(level) + 4, 'text-anchor': 'end' }, String(level)),
  ]);
  svg.replaceChildren(
    ...lines,
    svgElement('text', { x: left, y: top + height + 20 }, '0'),
    svgElement('text', { x: left + width, y: top + height + 20, 'text-anchor': 'end' }, String(end)),
    svgElement('polyline', { class: 'raw', points: points(some(rows)) }),
    svgElement('polyline', { class: 'curve', points: points(some(means)) }),
  );
}
