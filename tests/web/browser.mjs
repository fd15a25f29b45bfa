// The page in headless Chromium: a server of web/dist, fresh pages, and what they say.

import { chromium } from 'playwright-core';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';

const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.wasm': 'application/wasm', '.png': 'image/png', '.svg': 'image/svg+xml' };
/// The page must work below any path.
export const PREFIX = '/some/where/';
const DIST = path.resolve('web/dist');

export async function serve() {
  const server = http.createServer((request, response) => {
    const asked = decodeURIComponent(new URL(request.url, 'http://x').pathname);
    const file = path.join(DIST, asked.slice(PREFIX.length) || 'index.html');
    if (!asked.startsWith(PREFIX) || !file.startsWith(DIST) || !fs.existsSync(file)) {
      response.writeHead(404).end();
      return;
    }
    response.writeHead(200, { 'content-type': TYPES[path.extname(file)] ?? 'application/octet-stream' });
    fs.createReadStream(file).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { url: `http://127.0.0.1:${server.address().port}${PREFIX}`, close: () => server.close() };
}

/// Without a GPU, Chromium has WebGPU by SwiftShader alone.
export async function browse(options = {}) {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'inkwash-web-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM,
    headless: true,
    viewport: { width: 1200, height: 900 },
    locale: 'en-GB',
    acceptDownloads: true,
    args: [
      '--no-sandbox', '--enable-unsafe-webgpu', '--enable-unsafe-swiftshader', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync',
    ],
    ...options,
  });
  return { context, close: async () => { await context.close(); fs.rmSync(profile, { recursive: true, force: true }); } };
}

/// A page, and what its console says that it should not.
export async function open(context, url, { init, ready = true } = {}) {
  const page = await context.newPage();
  const said = [];
  page.on('console', (message) => { if (['warning', 'error'].includes(message.type())) said.push(`${message.type()}: ${message.text()}`); });
  page.on('pageerror', (error) => said.push(`thrown: ${error.message}`));
  page.on('requestfailed', (request) => said.push(`not loaded: ${request.url()}`));
  if (init) await page.addInitScript(init);
  await page.goto(url);
  if (ready) await page.waitForFunction(() => document.body.dataset.ready || !document.getElementById('missing').hidden, null, { timeout: 120000 });
  return { page, said };
}

/// The bytes of a canvas, RGBA.
export const pixels = (page, id) => page.evaluate((id) => {
  const canvas = document.getElementById(id);
  const { width, height } = canvas;
  // Through a canvas of the test's own, since Chromium warns of pages that read theirs often.
  const copy = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  return { width, height, data: [...copy.getImageData(0, 0, width, height).data] };
}, id);

/// The bytes of a PNG file, decoded by the browser.
export const decoded = (page, file) => page.evaluate(async (base64) => {
  const image = await createImageBitmap(await (await fetch(`data:image/png;base64,${base64}`)).blob(), { colorSpaceConversion: 'none' });
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext('2d').drawImage(image, 0, 0);
  return { width: image.width, height: image.height, data: [...canvas.getContext('2d').getImageData(0, 0, image.width, image.height).data] };
}, fs.readFileSync(file).toString('base64'));
