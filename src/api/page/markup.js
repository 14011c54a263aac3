// Creates elements, and updates one tree to match another. Text is never parsed as markup.

// Creates an element. `props`: attributes by name (`false` and `null` leave one out), `style` as an
// object of CSS properties, `key` to identify the element among its siblings.
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") {
      // Not the attribute, which the Content-Security-Policy forbids.
      for (const [property, set] of Object.entries(value)) element.style.setProperty(property, set);
    } else if (name === "key") {
      element.dataset.key = value;
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Updates the children of `old` to match `wanted` with as few moves as possible, so that elements
// that stay keep their focus, selection and scroll position.
export function morph(old, wanted) {
  const keyed = new Map();
  for (const child of old.children) if (child.dataset.key) keyed.set(child.dataset.key, child);
  let at = old.firstChild;
  for (const next of [...wanted.childNodes]) {
    const key = next.dataset?.key;
    let same = key ? keyed.get(key) : at;
    if (same && !key && (same.nodeName !== next.nodeName || same.dataset?.key)) same = null;
    if (same && same.nodeName !== next.nodeName) same = null;
    if (!same) {
      old.insertBefore(next, at);
      continue;
    }
    if (key) keyed.delete(key);
    if (same === at) at = at.nextSibling;
    else old.insertBefore(same, at);
    alter(same, next);
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

function alter(old, wanted) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== wanted.data) old.data = wanted.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (name !== "style" && !wanted.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (name !== "style" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (old.style.cssText !== wanted.style.cssText) old.style.cssText = wanted.style.cssText;
  // An input with the focus keeps the user's text.
  if (old.nodeName === "INPUT") {
    if (document.activeElement !== old) old.value = wanted.value;
    return;
  }
  morph(old, wanted);
}

// Announces a text to screen readers, politely. A repeated text is announced again.
export function tell(text) {
  const region = document.getElementById("announcement");
  region.textContent = region.textContent === text ? `${text}\u00a0` : text;
}
