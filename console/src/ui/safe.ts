import DOMPurify from "dompurify";
import { Marked } from "marked";
import type { TrustedHTML } from "trusted-types/lib";

/** Markup that a text may bring along by itself; all other is shown as the text that it is. */
const INLINE = /^<\/?(?:br|sub|sup|kbd|mark|b|i|em|strong|u|s|del|ins|small|details|summary)\s*\/?>$/i;
const TAGS = [
  "a", "b", "blockquote", "br", "code", "del", "details", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "ins",
  "kbd", "li", "mark", "ol", "p", "pre", "s", "small", "strong", "sub", "summary", "sup", "table", "tbody", "td", "th",
  "thead", "tr", "u", "ul",
];
const PICTURE = /^data:image\/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]*$/;
const LINK = /^(?:https?:|mailto:|#cite-\d+$)/i;

const marked = new Marked({
  gfm: true,
  breaks: false,
  renderer: {
    html({ text }) {
      return text.replace(/<[^>]*>?|[&<>]/g, (part) => (INLINE.test(part) ? part : escaped(part)));
    },
    checkbox({ checked }) {
      return checked ? "☑ " : "☐ ";
    },
    // Pictures of other hosts would tell them who reads: only those that the text itself contains are shown.
    image({ href, text }) {
      return PICTURE.test(href) ? `<img src="${href}" alt="${escaped(text)}">` : `${escaped(text)} (${escaped(href)})`;
    },
  },
});

const purify = DOMPurify(window);
purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName === "A") {
    const href = node.getAttribute("href") ?? "";
    if (!LINK.test(href)) node.removeAttribute("href");
    else if (!href.startsWith("#")) {
      node.setAttribute("target", "_blank");
      node.setAttribute("rel", "noopener noreferrer nofollow");
    }
  }
  if (!/^language-[\w+#.-]+$/.test(node.getAttribute("class") ?? "")) node.removeAttribute("class");
  if (node.nodeName === "IMG" && !PICTURE.test(node.getAttribute("src") ?? "")) node.removeAttribute("src");
});

/** Turns untrusted Markdown into markup that runs nothing, loads nothing and looks like nothing of the page's own. */
export function safeMarkup(text: string): TrustedHTML {
  return purify.sanitize(marked.parse(text, { async: false }), {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ["href", "src", "alt", "title", "start", "align", "target", "rel", "class"],
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_TRUSTED_TYPE: true,
  }) as unknown as TrustedHTML;
}

function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (one) => `&#${one.charCodeAt(0)};`);
}
