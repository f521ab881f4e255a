import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { t } from "../i18n";
import { Icon, type IconName } from "./Icon";

export interface ButtonProps {
  onClick?: (event: MouseEvent) => void;
  children?: ComponentChildren;
  icon?: IconName;
  /** Name for screen readers and as a tooltip, where the button shows an icon alone. */
  label?: string;
  kind?: "plain" | "primary" | "danger" | "quiet";
  small?: boolean;
  disabled?: boolean;
  busy?: boolean;
  submit?: boolean;
  pressed?: boolean;
  expanded?: boolean;
  controls?: string;
  /** Takes the focus when it appears, in the place of the button that was pressed before. */
  focused?: boolean;
  class?: string;
}

export function Button(props: ButtonProps) {
  const { kind = "plain", small, icon, label, children, busy } = props;
  const classes = ["button", kind, small && "small", children === undefined && "square", props.class];
  const element = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    if (props.focused) element.current?.focus();
  }, [props.focused]);
  return (
    <button
      ref={element}
      type={props.submit ? "submit" : "button"}
      class={classes.filter(Boolean).join(" ")}
      onClick={props.onClick}
      disabled={props.disabled || busy}
      aria-label={label}
      title={label}
      aria-pressed={props.pressed}
      aria-expanded={props.expanded}
      aria-controls={props.controls}
      aria-busy={busy || undefined}
    >
      {icon && <Icon name={icon} size={small ? 15 : 18} />}
      {children}
    </button>
  );
}

/** A button that puts a text on the clipboard and says so. */
export function CopyButton({ text, label, small = true }: { text: string | (() => string); label?: string; small?: boolean }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(typeof text === "string" ? text : text());
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return (
    <Button
      kind="quiet"
      small={small}
      icon={copied ? "check" : "copy"}
      label={copied ? t("action.copied") : (label ?? t("action.copy"))}
      onClick={() => void copy().catch(() => undefined)}
    />
  );
}
