import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { type Language, language, t } from "../i18n";
import { changeKey, hasKey } from "../state/key";
import { hrefOf, PAGES, type PageName } from "../state/route";
import { type Theme, theme } from "../state/theme";
import { Button } from "./Button";
import { Dialog } from "./Dialog";
import { Icon } from "./Icon";

const THEMES: readonly Theme[] = ["system", "light", "dark"];

/** What surrounds every page: the names of the pages at the side (a drawer where it is narrow), and the switches below. */
export function Shell({ page, children }: { page: PageName; children: ComponentChildren }) {
  const [open, setOpen] = useState(false);
  useEffect(() => setOpen(false), [page]);
  return (
    <div class="shell">
      <a
        class="skip"
        href="#content"
        onClick={(event) => {
          event.preventDefault();
          document.getElementById("content")?.focus();
        }}
      >
        {t("shell.skip")}
      </a>
      <header class="topbar">
        <Button kind="quiet" icon="menu" label={t("nav.open")} expanded={open} onClick={() => setOpen(true)} />
        <span class="topbar-title">{t(`nav.${page}`)}</span>
      </header>
      <aside class="sidebar">
        <Navigation page={page} />
      </aside>
      {open && (
        <Dialog title="Deepwell" side="left" onClose={() => setOpen(false)}>
          <Navigation page={page} onGo={() => setOpen(false)} bare />
        </Dialog>
      )}
      <main id="content" tabIndex={-1}>
        {children}
      </main>
    </div>
  );
}

function Navigation({ page, onGo, bare }: { page: PageName; onGo?: () => void; bare?: boolean }) {
  return (
    <div class="navigation">
      {!bare && (
        <div class="brand">
          <Mark />
          Deepwell
        </div>
      )}
      <nav aria-label={t("nav.label")}>
        {PAGES.map((name) => (
          <a key={name} href={hrefOf(name)} aria-current={name === page ? "page" : undefined} onClick={onGo}>
            <Icon name={name} />
            {t(`nav.${name}`)}
          </a>
        ))}
      </nav>
      <div class="nav-foot">
        {hasKey.value && (
          <Button kind="quiet" icon="key" onClick={changeKey} small>
            {t("key.set")}
          </Button>
        )}
        <div class="nav-links">
          <a href="/start">{t("shell.start")}</a>
          <a href="/docs">{t("shell.docs")}</a>
        </div>
        <div class="nav-switches">
          <label class="switch">
            <Icon name="language" size={16} />
            <span class="unseen">{t("shell.language")}</span>
            <select value={language.value} onChange={(event) => (language.value = event.currentTarget.value as Language)}>
              <option value="en">English</option>
              <option value="zh">中文</option>
            </select>
          </label>
          <label class="switch">
            <Icon name="theme" size={16} />
            <span class="unseen">{t("shell.theme")}</span>
            <select value={theme.value} onChange={(event) => (theme.value = event.currentTarget.value as Theme)}>
              {THEMES.map((one) => (
                <option key={one} value={one}>
                  {t(`theme.${one}`)}
                </option>
              ))}
            </select>
          </label>
        </div>
      </div>
    </div>
  );
}

/** The mark of the project: a well, seen from above and from the side. */
function Mark() {
  return (
    <svg class="mark" width="22" height="22" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <ellipse cx="12" cy="7" rx="8" ry="3" />
      <path d="M4 7v10c0 1.7 3.6 3 8 3s8-1.3 8-3V7M8 13.500c1.1.6 2.5.9 4 .9s2.9-.3 4-.9" />
    </svg>
  );
}
