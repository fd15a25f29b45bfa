// What the address says after its #, as `tab=draw&t=300`: a link to it shows the same again.

const values = new Map(new URLSearchParams(location.hash.slice(1)));
const listeners = [];

export const get = (name, otherwise) => values.get(name) ?? otherwise;

/// A whole number within bounds.
export function number(name, otherwise, least, most) {
  const found = Number(values.get(name) ?? otherwise);
  return Number.isFinite(found) ? Math.min(Math.max(Math.round(found), least), most) : otherwise;
}

export function set(name, value) {
  if (String(value) === values.get(name)) return;
  values.set(name, String(value));
  history.replaceState(null, '', `#${new URLSearchParams([...values])}`);
}

/// Calls `listener` when the address is changed by hand or by a link.
export const onChange = (listener) => listeners.push(listener);

addEventListener('hashchange', () => {
  values.clear();
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) values.set(name, value);
  for (const listener of listeners) listener();
});
