import { useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { t } from "../i18n";
import { BlockReader, blocksOf } from "./blocks";
import { safeMarkup } from "./safe";
import "./markdown.css";

export interface MarkdownProps {
  /** Untrusted. */
  text: string;
  /** Whether the text still grows. */
  live?: boolean;
  /** Opens what a mark such as [1] stands for; its links are `#cite-1`. */
  onCite?: (mark: string) => void;
}

/** Shows untrusted Markdown, block by block, so that text that grows redraws its last block alone. */
export function Markdown({ text, live = false, onCite }: MarkdownProps) {
  const reader = useRef<BlockReader | null>(null);
  const blocks = useMemo(() => {
    if (!live) return blocksOf(text);
    reader.current ??= new BlockReader();
    return reader.current.read(text);
  }, [text, live]);
  return (
    <div
      class="markdown"
      onClick={(event) => {
        const link = event.target instanceof Element ? event.target.closest("a") : null;
        const mark = /^#cite-(\d+)$/.exec(link?.getAttribute("href") ?? "")?.[1];
        if (mark === undefined) return;
        event.preventDefault();
        onCite?.(mark);
      }}
    >
      {blocks.map((block, place) => (
        <Block key={place} text={block} />
      ))}
    </div>
  );
}

function Block({ text }: { text: string }) {
  const element = useRef<HTMLDivElement>(null);
  const shown = useRef<string | null>(null);
  useLayoutEffect(() => {
    const host = element.current;
    if (!host || shown.current === text) return;
    shown.current = text;
    const markup = safeMarkup(text);
    host.innerHTML = markup as unknown as string;
    for (const pre of host.querySelectorAll("pre")) addHead(pre);
    for (const table of host.querySelectorAll("table")) frame(table);
  });
  return <div ref={element} class="block" />;
}

/** Puts the language and a button that copies above a piece of code. */
function addHead(pre: HTMLPreElement): void {
  const code = pre.querySelector("code");
  const head = document.createElement("div");
  head.className = "code-head";
  const name = document.createElement("span");
  name.textContent = /language-(\S+)/.exec(code?.className ?? "")?.[1] ?? "";
  const button = document.createElement("button");
  button.type = "button";
  button.className = "button quiet small";
  button.textContent = t("action.copy");
  button.addEventListener("click", () => {
    navigator.clipboard.writeText(code?.textContent ?? "").then(
      () => {
        button.textContent = t("action.copied");
        setTimeout(() => (button.textContent = t("action.copy")), 1500);
      },
      () => undefined,
    );
  });
  head.append(name, button);
  const box = document.createElement("div");
  box.className = "code";
  pre.replaceWith(box);
  pre.tabIndex = 0;
  box.append(head, pre);
}

/** Lets a wide table scroll by itself. */
function frame(table: HTMLTableElement): void {
  const box = document.createElement("div");
  box.className = "table-frame";
  box.tabIndex = 0;
  table.replaceWith(box);
  box.append(table);
}
