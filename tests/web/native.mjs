// The native program on the driver that Chromium computes with, where there is one, else on whatever there is.

import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';

const swiftshader = ['/usr/lib/chromium', path.dirname(process.env.CHROMIUM ?? ''), path.dirname(fs.realpathSync(process.env.CHROMIUM ?? '/'))]
  .map((folder) => path.join(folder, 'vk_swiftshader_icd.json')).find((file) => fs.existsSync(file));

export const driver = swiftshader ? 'SwiftShader' : 'the first device';

export function inkwash(...args) {
  const env = { ...process.env, XDG_RUNTIME_DIR: process.env.XDG_RUNTIME_DIR ?? '/tmp' };
  if (swiftshader) env.VK_DRIVER_FILES = env.VK_ICD_FILENAMES = swiftshader;
  return execFileSync(process.env.INKWASH, args, { env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], timeout: 300000 });
}
